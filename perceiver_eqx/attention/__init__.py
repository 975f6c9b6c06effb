"""Attention: one algebra (`softmax`), who sees whom (`masks`), and the engines."""
