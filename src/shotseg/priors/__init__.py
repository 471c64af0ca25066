"""Maps in [0, 1] made without training: what a class name, a support photo or the image itself says about a query."""
