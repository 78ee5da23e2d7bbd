"""``python -m ht_kernels`` is the command ``ht-kernels``."""

from ht_kernels.cli import main

raise SystemExit(main())
