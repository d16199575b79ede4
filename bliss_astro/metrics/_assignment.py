# Licensed under a 3-clause BSD style license - see LICENSE.rst
"""
Optimal choice among candidate pairs, group by connected group.
"""

import numpy as np

__all__ = []

# Above this many cells a connected group is solved with a sparse matrix.
_DENSE_CELLS = 250_000


def assign(row, col, distance, n_rows, radius):
    """
    The pairs to keep: most pairs first, then the smallest summed distance.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    lonely = (np.bincount(row, minlength=n_rows[0])[row] == 1) & (
        np.bincount(col, minlength=n_rows[1])[col] == 1
    )
    chosen = [np.flatnonzero(lonely)]
    rest = np.flatnonzero(~lonely)
    if not len(rest):
        return chosen[0]

    n_nodes = n_rows[0] + n_rows[1]
    ends = (row[rest], n_rows[0] + col[rest])
    graph = coo_matrix((np.ones(len(rest), dtype=np.int8), ends), (n_nodes, n_nodes))
    _, label = connected_components(graph, directed=False)
    label = label[row[rest]]
    order = np.lexsort((distance[rest], label))
    rest, label = rest[order], label[order]
    starts = np.flatnonzero(np.r_[True, label[1:] != label[:-1]])
    stops = np.r_[starts[1:], len(rest)]

    # In a star-shaped group all pairs share a row, and the shortest one wins.
    same_row = np.minimum.reduceat(row[rest], starts) == np.maximum.reduceat(
        row[rest], starts
    )
    same_col = np.minimum.reduceat(col[rest], starts) == np.maximum.reduceat(
        col[rest], starts
    )
    star = same_row | same_col
    chosen.append(rest[starts[star]])
    for start, stop in zip(starts[~star], stops[~star], strict=True):
        group = rest[start:stop]
        chosen.append(group[_solve(row[group], col[group], distance[group], radius)])
    return np.concatenate(chosen)


def _solve(row, col, distance, radius):
    """
    Solve one connected group exactly; returns which of its pairs to keep.
    """
    from scipy.optimize import linear_sum_assignment

    rows, i = np.unique(row, return_inverse=True)
    cols, j = np.unique(col, return_inverse=True)
    n_i, n_j = len(rows), len(cols)
    # One more pair must outweigh any change of the summed distance.
    penalty = 2.0 * radius * (min(n_i, n_j) + 1)
    if n_i * n_j > _DENSE_CELLS:
        return _solve_sparse(i, j, distance + radius, 2 * penalty, (n_i, n_j))
    cost = np.full((n_i, n_j), penalty)
    cost[i, j] = distance
    pair = np.full((n_i, n_j), -1)
    pair[i, j] = np.arange(len(distance))
    index = pair[linear_sum_assignment(cost)]
    return index[index >= 0]


def _solve_sparse(i, j, cost, penalty, shape):
    """
    The same with a sparse matrix; each row may also take a column of its own.

    The costs must be positive, since a sparse matrix forgets zeros.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n_i, n_j = shape
    own = np.arange(n_i)
    cells = (np.r_[i, own], np.r_[j, n_j + own])
    values = np.r_[cost, np.full(n_i, penalty)]
    matrix = csr_matrix((values, cells), shape=(n_i, n_j + n_i))
    best_i, best_j = min_weight_full_bipartite_matching(matrix)
    partner = np.full(n_i, -1)
    partner[best_i] = best_j
    return np.flatnonzero(partner[i] == j)
