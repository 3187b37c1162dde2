/* amx.c over a model of its instructions: FASTCNN_ISA=amx-model, in builds with FASTCNN_AMX_MODEL=1 (setup.py). */
#define FASTCNN_AMX_SOFTWARE
#include "amx.c"
