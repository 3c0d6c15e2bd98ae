"""Kinds of token: a word, a number, an operator, a one-letter name, a character of a script without spaces."""

KIND_WORD, KIND_NUMBER, KIND_OPERATOR, KIND_LETTER, KIND_CJK = range(5)
