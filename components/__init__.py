"""TorchX components; in an installed package this folder is ``seo_rec_components``."""
