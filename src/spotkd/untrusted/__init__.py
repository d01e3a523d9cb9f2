"""All code that reads files made elsewhere, in one package: what a file claims is checked before it is believed.

A file is refused with one line that names it. Nothing in a file is executed, nothing is written outside the folder
that the user named, and no file takes more memory or disk than its own size justifies. The limits are constants
beside the code that applies them.

- ``files``: regular files of a bounded size, opened once
- ``torch_files``: weights and checkpoints written by ``torch.save``
- ``safetensors_files``: tensors of ``.safetensors`` files and the notes beside them
- ``pickles``: the pickled batches of CIFAR; the parts that validators of pickles are made of
- ``images``: image files: their size on the disk and in pixels, decoding
- ``archives``: zip and tar, unpacked or read in place
- ``yaml_files``: configurations and plans
- ``names``: of code and of addresses, which are not followed unless a person says so
- ``json_values``: JSON, and the types of what it holds

This package imports nothing by itself, so that ``spotkd --help`` reads YAML without loading torch.
"""
