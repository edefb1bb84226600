"""Data in and out: CSV tables and maps, scaling, splits, mini-batches, and synthetic wells."""

from .loader import DataLoader, sample_rows, train_test_split
from .scale import MinMaxScaler, from_one_hot, one_hot
from .synthetic import Reservoir, sample_wells, synthetic_reservoir
from .table import DataError, Table, read_map, read_table, write_map, write_table

__all__ = [
    "DataError",
    "DataLoader",
    "MinMaxScaler",
    "Reservoir",
    "Table",
    "from_one_hot",
    "one_hot",
    "read_map",
    "read_table",
    "sample_rows",
    "sample_wells",
    "synthetic_reservoir",
    "train_test_split",
    "write_map",
    "write_table",
]
