"""``explore``: an app in the browser that shows pairs, maps, masks and what models fill in.

It is made of the functions of ``pipelines.api`` alone. Pairs are searched in ``pairs``, pictures made in ``looks``,
and ``app`` serves both to the page in ``page/``, which is plain HTML and JavaScript and loads nothing from elsewhere.
"""
