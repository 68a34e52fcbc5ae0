# %% [markdown]
# # First steps
#
# Restore a numpy array, see whether it was worth it, and look at the result. Run this file as a
# script, or cell by cell in an editor or notebook that knows `# %%`. The photograph comes with
# scikit-image: `pip install 'gigarestore[demo,arrays]'`.

# %% A photograph of 128 x 128 px, and what a sensor of a quarter of the resolution sees of it
import numpy as np
import skimage

import gigarestore as gr

photo = skimage.data.astronaut()[0:128, 160:288]
small = photo.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3)).round().astype(np.uint8)

# %% Five lines: restore it, and compare it with bicubic enlargement
restored = np.asarray(gr.restore(small, scale=4))
bicubic = skimage.transform.rescale(small, 4, order=3, channel_axis=2, preserve_range=True)
for name, picture in {"bicubic": bicubic, "restored": restored}.items():
    decibels = 10 * np.log10(255**2 / np.mean((picture - photo.astype(float)) ** 2))
    print(f"{name}: {decibels:.2f} dB")

# %% Does the result agree with what was measured? A x = y holds for every pixel, to the rounding
result = gr.restore(small, scale=4)
check = result.verify()
print(f"A x = y: {check.consistent}, at most {check.consistency.max:.2f} grey levels off")

# %% In a notebook the value of a cell is shown: input and restoration under a slider
result  # noqa: B018

# %% The array is lazy (dask, where it is installed), and so is the pyramid that viewers want
print(result.array.shape, [level.shape for level in result.pyramid])

# %% What would ten thousand pixels a side take? Nothing is read or written to say so
print(gr.plan(size=(10_000, 10_000), scale=4, workers=8))

# %% Something else happened to the image: half of it is unknown
known = np.indices((128, 128)).sum(axis=0) % 2 == 0
filled = gr.restore(photo, gr.Task.inpaint(known))
print(f"known pixels are kept: {np.array_equal(np.asarray(filled)[known], photo[known])}")

# %% A long restoration: begin it, look at what happens, and go on meanwhile
run = gr.start(photo, gr.Task.denoise(sigma=10))
print(sorted({type(event).__name__ for event in run.events()}))
print(run.result().shape)

# %% The sampler itself, on a tensor: no tiles, no files
pool = gr.operators.average_pool(4)
y = small.transpose(2, 0, 1)[None] / np.float32(127.5) - 1
drawn = gr.sample("builtin", pool, y, method="ddnm", steps=10, start=300)
residual = pool.A(drawn).numpy() - y
print(tuple(drawn.shape), f"|A x - y| is at most {abs(residual).max():.0e}")
