"""Networks that bijectors call: small factories of ordinary Keras models.

Each takes the shape of one example of the input and the size of the output's last dimension, and
ends in a layer of zeros, so that a new coupling is (nearly) the identity. Any Keras model with the
same input and output shapes can replace them.
"""

from tfp_flows.conditioners.conv import conv
from tfp_flows.conditioners.dense import LabelEmbedding, mlp, resnet
from tfp_flows.conditioners.lipschitz import LipSwish, SpectralDense, lipschitz_mlp
from tfp_flows.conditioners.made import MaskedDense, made
from tfp_flows.conditioners.vector_field import vector_field

__all__ = [
    "LabelEmbedding",
    "LipSwish",
    "MaskedDense",
    "SpectralDense",
    "conv",
    "lipschitz_mlp",
    "made",
    "mlp",
    "resnet",
    "vector_field",
]
