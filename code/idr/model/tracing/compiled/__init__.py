"""The compiled tracer: training rays on a CPU, for small networks on a hash grid."""
