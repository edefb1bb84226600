"""autograd_geo: a small automatic differentiation engine for the geosciences."""

from . import ops
from .backward import backward
from .check import check_dot, check_grad, check_taylor
from .declare import custom, linear, multilinear, pointwise, sample
from .op import functions as _functions
from .tape import enable_grad, no_grad, set_grad_enabled
from .tensor import Parameter, Tensor, tensor
from .transform import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

globals().update({k: v for k, v in _functions.items() if k.isidentifier()})
