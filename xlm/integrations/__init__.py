"""Other libraries' interfaces to this one; each file needs the library that it is named after."""
