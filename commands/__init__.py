"""The commands, one module each: ``headway NAME`` is ``NAME_command`` of ``NAME.py``, imported when it is called."""
