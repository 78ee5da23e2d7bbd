"""``python -m ht_kernels`` runs the command ``ht-kernels``."""

from ht_kernels.cli import main

raise SystemExit(main())
