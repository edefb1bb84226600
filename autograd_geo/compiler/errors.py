"""What `ag.compile` refuses."""


class CompileError(TypeError):
    """A function that cannot be compiled because it would not do the same each time; the message says why."""


__all__ = ["CompileError"]
