"""The local index: a rebuildable LMDB map from chunk and node ids to where they are.

local/ > `index-<n>/` (the highest n is in use) > LMDB environment. Packs are the truth; whatever is
wrong here is thrown away and read again from their footers.
"""

from snapstore.index.environment import discard, newest
from snapstore.index.index import DedupView, Index, PackRow, PackTable

__all__ = ["DedupView", "Index", "PackRow", "PackTable", "discard", "newest"]
