"""Measure what the sampler costs on a device: seconds, memory and accuracy, network by network.

May import every other room of kernels; nothing in kernels imports it.
"""
