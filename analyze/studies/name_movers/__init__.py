"""Why does a head attend from the end of a sentence to a name?"""
