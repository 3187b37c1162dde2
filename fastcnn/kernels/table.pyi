from typing import Any

capsule: Any

def functions() -> dict[str, int]: ...
