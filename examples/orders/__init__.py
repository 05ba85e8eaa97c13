"""An order service: stock, approval, payment, shipping, and what undoes them, in several processes.

``python -m examples.orders [FILE]`` runs it, kills two of its processes on the way, and proves
from the books of the bank that nothing was lost and nothing charged twice.
"""
