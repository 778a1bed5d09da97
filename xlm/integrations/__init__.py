"""Adapters for other libraries; each module requires the library that it is named after."""
