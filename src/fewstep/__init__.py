"""fewstep: diffusion samplers that need few steps, each a table of coefficients."""

__version__ = "0.1.0"
