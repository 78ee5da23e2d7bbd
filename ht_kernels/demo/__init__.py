"""What ``ht-kernels demo`` runs and draws.

``breast`` segments images that come with the package, ``clips`` a simulated and a real clip, ``comparison`` times the
published computation against this package, and ``sheet`` draws all of it as one picture.
"""
