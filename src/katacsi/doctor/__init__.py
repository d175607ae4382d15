"""Looks at a node and says what an operator should change: facts are gathered once, then judged.

`collect` gathers a `Node`; the modules named `…_checks` judge it by pure functions; `examine` runs them all.
"""
