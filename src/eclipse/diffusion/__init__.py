"""The denoising tool: schedules, denoisers, training, samplers."""
