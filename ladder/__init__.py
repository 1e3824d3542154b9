"""A ladder of really trained small models of code: one family, one tokenizer, the same tokens for every size.

Made on any machine from the Python standard library's own source; see docs/ladder.md.
"""
