/* A convolution and a max-pool by fastcnn, in an extension module that knows neither Cython nor NumPy. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <fastcnn/kernels.h>
#include <stdlib.h>
#include <string.h>

static const fastcnn_kernels *kernels;

static int get_floats(PyObject *object, Py_buffer *view, int writable) {
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, view, flags)) return -1;
    if (view->ndim == 4 && view->format && !strcmp(view->format, "f")) return 0;
    PyBuffer_Release(view);
    PyErr_SetString(PyExc_TypeError, "expected a C-contiguous 4-D array of float32");
    return -1;
}

/* output = max_pool2d(conv2d(images, weight), 2); returns what is wrong, or NULL */
static const char *compute(const Py_buffer *images, const Py_buffer *weight, const Py_buffer *output) {
    const Py_ssize_t *in = images->shape, *kernel = weight->shape, *out = output->shape;
    const ptrdiff_t outputs = kernel[0], oh = in[2] - kernel[2] + 1, ow = in[3] - kernel[3] + 1;
    const fastcnn_window conv = {.n = in[0], .c = in[1], .h = in[2], .w = in[3], .oh = oh, .ow = ow,
                                 .kh = kernel[2], .kw = kernel[3], .sh = 1, .sw = 1, .dh = 1, .dw = 1};
    const fastcnn_window pool = {.n = in[0], .c = outputs, .h = oh, .w = ow, .oh = oh / 2, .ow = ow / 2,
                                 .kh = 2, .kw = 2, .sh = 2, .sw = 2, .dh = 1, .dw = 1};
    const int threads = kernels->max_threads();
    /* The kernels trust their arguments: these functions say what is wrong with sizes. */
    const char *error = kernels->check_conv(&conv, outputs, 1);
    if (!error) error = kernels->check_pool(&pool, 0);
    if (error) return error;
    if (kernel[1] != in[1]) return "weight does not fit the images";
    if (out[0] != in[0] || out[1] != outputs || out[2] != oh / 2 || out[3] != ow / 2) return "output has a wrong shape";
    void *scratch = malloc((size_t)kernels->conv_scratch(FASTCNN_FORWARD, &conv, outputs, 1, threads, sizeof(float)));
    float *middle = malloc(sizeof(float) * (size_t)(in[0] * outputs * oh * ow));
    if (scratch && middle) {
        kernels->conv_forward_f32(images->buf, weight->buf, NULL, middle, &conv, outputs, 1, scratch, threads);
        kernels->max_pool_f32(middle, output->buf, NULL, 0, &pool, threads);
    }
    if (!scratch || !middle) error = "not enough memory";
    free(scratch);
    free(middle);
    return error;
}

static PyObject *conv_pool(PyObject *self, PyObject *arguments) {
    PyObject *objects[3];
    Py_buffer views[3];
    const char *error = NULL;
    int got = 0;
    (void)self;
    if (!PyArg_ParseTuple(arguments, "OOO", objects, objects + 1, objects + 2)) return NULL;
    while (got < 3 && !get_floats(objects[got], views + got, got == 2)) got++;
    if (got == 3) {
        Py_BEGIN_ALLOW_THREADS
        error = compute(views, views + 1, views + 2);
        Py_END_ALLOW_THREADS
        if (error) PyErr_SetString(PyExc_ValueError, error);
    }
    for (int i = 0; i < got; i++) PyBuffer_Release(views + i);
    return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
}

static PyMethodDef methods[] = {
    {"conv_pool", conv_pool, METH_VARARGS, "conv_pool(images, weight, output): convolve, then take maxima of 2 x 2"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "convpool_c", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_convpool_c(void) {
    kernels = fastcnn_import();
    return kernels ? PyModule_Create(&module) : NULL;
}
