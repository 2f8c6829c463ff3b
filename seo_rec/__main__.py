"""``python -m seo_rec`` is ``seo-rec``, in this interpreter."""

from seo_rec.cli.main import main

if __name__ == "__main__":
    main()
