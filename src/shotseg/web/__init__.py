"""The page of ``shotseg serve``: a project folder, the model beside it, and the server that shows both.

Without HTTP: :mod:`project` (what a person said, replayed from :mod:`ledger`), :mod:`drawing`, :mod:`engine` (the model's one
thread), :mod:`gallery` (pictures), :mod:`exports`. With it: :mod:`app`, :mod:`routes`, :mod:`schemas`,
:mod:`guard`, :mod:`events`.
"""
