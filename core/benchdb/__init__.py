"""benchdb"""
