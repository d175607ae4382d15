"""Looks at a node and says what an operator should change: facts are gathered once, then judged.

Each module of a subject (the handlers, Kata, the records, the kernel, …) has what is known of it, how that is
gathered, and the checks that judge it, which are pure functions. `node` puts the facts together; `examine`
runs all checks.
"""
