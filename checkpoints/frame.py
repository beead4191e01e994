"""A page in the output of a notebook."""

import html


def framed(page: str, title: str, height: int) -> str:
    """Return a frame around the text of a page, for the output of a notebook.

    A page from somebody else can draw itself and save its figures there, and do nothing to the notebook around it.

    Example:
        >>> framed("<p>", "a & b", 100)[:60]
        '<iframe srcdoc="&lt;p&gt;" style="width:100%;height:100px;bo'
    """
    apart = f'sandbox="allow-scripts allow-downloads" title="{html.escape(title)}"'
    return f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:{height}px;border:0" {apart}></iframe>'
