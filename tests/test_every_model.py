"""One contract for every few-shot model. The semantic models take no support, those of CLIP are in their own tests."""

import pytest
import torch

from shotseg import encoders, models
from shotseg.data.samples import Support
from shotseg.errors import UsageError
from shotseg.models.few_shot_model import FewShot

LEFT_OUT = {*models.SEMANTIC, "pi-clip", "pi-clip-priors", "pi-clip-zero-shot"}


@pytest.mark.parametrize("name", [n for n in models.list_models() if n not in LEFT_OUT])
def test_a_support_of_batch_one_serves_every_query(name):
    model = models.load(name, encoders.load("efficientnet-lite0", "random"), size=64).eval()
    assert isinstance(model, FewShot)
    photos, masks = torch.rand(2, 3, 64, 64), torch.zeros(1, 1, 64, 64, dtype=torch.long)
    masks[..., 16:48, 16:48] = 1
    with torch.no_grad():
        support = model.encode_support(photos[:1, None], masks, class_names=("cat",))
        both = model(model.encode(photos), support, photos).logits
        alone = [model(model.encode(photo[None]), support, photo[None]).logits for photo in photos]
        torch.testing.assert_close(both, torch.cat(alone), atol=1e-3, rtol=1e-3)
        three = Support({key: x.expand(3, *x.shape[1:]) for key, x in support.tensors.items()})
        with pytest.raises(UsageError, match="a support of batch 3 for 2 queries"):
            model(model.encode(photos), three, photos)
