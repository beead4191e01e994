"""What every test shares: one thread each, since the tests run side by side on the machine's cores."""

import torch
from browsing import browser, opened  # noqa: F401  # fixtures

torch.set_num_threads(1)
