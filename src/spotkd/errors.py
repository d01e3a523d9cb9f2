"""The one exception for mistakes that the user can mend."""

from __future__ import annotations


class SpotkdError(ValueError):
    """Wrong input: an unknown name, shapes that do not fit, a file that cannot be read.

    The message is one line that names the key or the file and says what to do. The command line prints it and
    exits with status 2; library code lets it propagate.
    """
