from .method import Losses, Method, Supervised  # noqa: F401
