"""The pages and schemas that are made from code: what is said of events stands in one place, their models.

`python -m towline.docs` writes them into `docs`; `--check` fails and names each one that differs.
"""
