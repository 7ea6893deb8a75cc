"""What a denoiser is made of, to be imported from ``eclipse.diffusion``."""

from eclipse.diffusion.checkpoint import load_denoiser as load_denoiser
from eclipse.diffusion.checkpoint import save_denoiser as save_denoiser
from eclipse.diffusion.denoiser import ARCHITECTURES as ARCHITECTURES
from eclipse.diffusion.denoiser import JSON as JSON
from eclipse.diffusion.denoiser import Denoiser as Denoiser
from eclipse.diffusion.denoiser import DenoiserConfig as DenoiserConfig
from eclipse.diffusion.denoiser import Prediction as Prediction
from eclipse.diffusion.denoiser import build_denoiser as build_denoiser
from eclipse.diffusion.schedule import NoiseSchedule as NoiseSchedule
from eclipse.diffusion.trusted import train_denoiser as train_denoiser
from eclipse.errors import EclipseError as EclipseError
