"""Many runs: which ones (``plan``), where they are computed (``pool``, ``on_ray``), and one job for each (``each``)."""
