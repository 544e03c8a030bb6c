# Copyright (c) The monai_locor developers
# SPDX-License-Identifier: Apache-2.0

"""LocalLearnedBasisCRLoss inside what MONAI and torch put around a loss."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.losses import MaskedLoss, MultiScaleLoss
from monai.metrics import LossMetric
from torch import nn

from monai_locor.losses import LocalLearnedBasisCRLoss


def pair(*shape: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(2, 1, *shape, device=device), torch.rand(2, 1, *shape, device=device)


def small_network() -> nn.Sequential:
    """The two convolutions of MONAI's own integration test of its registration losses."""
    return nn.Sequential(nn.Conv3d(1, 1, 3, padding=1), nn.ReLU(), nn.Conv3d(1, 1, 3, padding=1))


class TestWrappers:
    def test_multi_scale(self):
        loss = LocalLearnedBasisCRLoss(3)
        pred, target = pair(12, 12, 12)
        pred.requires_grad_()
        value = MultiScaleLoss(loss, scales=[0, 1, 2])(y_true=target, y_pred=pred)
        value.backward()
        assert value.isfinite() and pred.grad.abs().max() > 0

    def test_masked_loss(self):
        wrapped = MaskedLoss(LocalLearnedBasisCRLoss, spatial_dims=2, num_basis=3)
        pred, target = pair(9, 9)
        assert len(list(wrapped.parameters())) == 6
        assert wrapped(pred, target, (pred > 0.2).float()).isfinite()

    def test_loss_metric(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        metric = LossMetric(loss)
        first, second = pair(9, 9), pair(12, 12)
        for pred, target in (first, second):
            metric(pred, target)
        torch.testing.assert_close(metric.aggregate().squeeze(), (loss(*first) + loss(*second)).detach() / 2)

    def test_sequence_of_sizes(self):
        """Nothing is remembered from call to call: every level of a pyramid may use the same object."""
        loss = LocalLearnedBasisCRLoss(3).eval()
        large, small = pair(12, 13, 14), pair(5, 6, 7)
        expected = loss(*large)
        loss(*small)
        assert torch.equal(loss(*large), expected)


class TestCopies:
    @pytest.mark.parametrize("seeded", [False, True])
    @pytest.mark.parametrize("basis", ["learned", "polynomial"])
    @pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
    def test_a_copy_goes_its_own_way(self, duplicate, basis, seeded):
        generator = torch.Generator().manual_seed(3) if seeded else None
        loss = LocalLearnedBasisCRLoss(2, basis=basis, generator=generator, stride=(3, 2))
        loss(*pair(9, 9))
        other = duplicate(loss)
        pred, target = pair(9, 9)
        torch.manual_seed(1)
        expected = loss(pred, target)
        torch.manual_seed(1)
        assert torch.equal(other(pred, target), expected)  # with a generator, its state was copied too
        for parameter in other.parameters():
            nn.init.zeros_(parameter)
        assert all(p.abs().max() > 0 for p in loss.parameters())

    def test_state_dict_holds_the_basis_only(self):
        loss = LocalLearnedBasisCRLoss(3)
        loss(*pair(9, 9, 9))
        assert list(loss.state_dict()) == [f"basis.layers.{i}.{name}" for i in range(3) for name in ("weight", "bias")]
        assert not LocalLearnedBasisCRLoss(3, basis="polynomial").state_dict()

    def test_state_dict_round_trip(self, tmp_path):
        first, second = LocalLearnedBasisCRLoss(3).eval(), LocalLearnedBasisCRLoss(3, stride=2, kernel_sigma=1.0).eval()
        torch.save(first.state_dict(), tmp_path / "loss.pt")
        second.load_state_dict(torch.load(tmp_path / "loss.pt", weights_only=True))
        second.stride, second.kernel_sigma = first.stride, first.kernel_sigma
        pred, target = pair(9, 9, 9)
        assert torch.equal(first(pred, target), second(pred, target))


class TestTraining:
    @pytest.mark.slow
    @pytest.mark.parametrize("basis", ["learned", "polynomial"])
    @pytest.mark.parametrize("form", ["log", "normalized"])
    def test_volumes_of_five_voxels(self, basis, form, device):
        """MONAI's `test_reg_loss_integration`: two convolutions that have to make their output resemble the input."""
        network, loss = small_network().to(device), LocalLearnedBasisCRLoss(3, basis=basis, form=form).to(device)
        image = torch.rand(1, 1, 5, 5, 5, device=device)
        optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-2)
        start = loss.eval()(pred=network(image), target=image).item()
        loss.train()
        for _ in range(100):
            optimizer.zero_grad()
            loss(pred=network(image), target=image).backward()
            optimizer.step()
        assert loss.eval()(pred=network(image), target=image) < start

    def test_supervised_trainer_and_checkpoints(self, tmp_path):
        pytest.importorskip("ignite")
        from monai.engines import SupervisedTrainer
        from monai.handlers import CheckpointLoader, CheckpointSaver

        items = [{"image": torch.rand(1, 8, 8, 8), "label": torch.rand(1, 8, 8, 8)} for _ in range(4)]

        def trainer(*handlers: object) -> SupervisedTrainer:
            network, loss = small_network(), LocalLearnedBasisCRLoss(3)
            objects = {"model": network, "loss": loss}
            engine = SupervisedTrainer(
                device=torch.device("cpu"),
                max_epochs=2,
                train_data_loader=DataLoader(Dataset(items), batch_size=2),
                network=network,
                optimizer=torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-2),
                loss_function=loss,
                train_handlers=[handler(objects) for handler in handlers],
            )
            engine.run()
            return engine

        def saver(objects: dict[str, nn.Module]) -> CheckpointSaver:
            return CheckpointSaver(str(tmp_path), objects, save_final=True, final_filename="last.pt")

        first = trainer(saver)
        assert first.state.output[0]["loss"] if isinstance(first.state.output, list) else first.state.output["loss"]
        network, loss = small_network(), LocalLearnedBasisCRLoss(3)
        CheckpointLoader(str(tmp_path / "last.pt"), {"model": network, "loss": loss})(first)
        for ours, theirs in ((network, first.network), (loss, first.loss_function)):
            expected = theirs.state_dict()
            assert all(torch.equal(value, expected[name]) for name, value in ours.state_dict().items())

    def test_gradient_accumulation(self):
        loss = LocalLearnedBasisCRLoss(2).eval()
        pred, target = pair(9, 9)
        for i in range(2):
            (loss(pred[i : i + 1], target[i : i + 1]) / 2).backward()
        grads = [p.grad.clone() for p in loss.parameters()]
        loss.zero_grad()
        loss(pred, target).backward()
        for p, grad in zip(loss.parameters(), grads, strict=True):
            torch.testing.assert_close(p.grad, grad)

    @pytest.mark.slow
    def test_compile_falls_back_where_it_must(self):
        loss = LocalLearnedBasisCRLoss(2).double().eval()
        pred, target = (x.double() for x in pair(12, 12))
        expected = torch.autograd.grad(loss(pred, target), list(loss.parameters()))
        compiled = torch.compile(loss, backend="aot_eager_default_partitioner")
        found = torch.autograd.grad(compiled(pred, target), list(loss.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


def rank_data(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return torch.rand(1, 1, 8, 8, 8, generator=generator), torch.rand(1, 1, 8, 8, 8, generator=generator)


def rank_objects() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return small_network(), LocalLearnedBasisCRLoss(3).eval()


def run_rank(rank: int, folder: str) -> None:
    """One of two processes: network and loss both wrapped, the gradients written to a file."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    network, loss = (nn.parallel.DistributedDataParallel(x) for x in rank_objects())
    pred, target = rank_data(rank)
    loss(network(pred), target).backward()
    torch.save([p.grad for x in (network, loss) for p in x.parameters()], f"{folder}/{rank}.pt")
    # the last to hold the group must not be a wrapper: it joins Gloo's threads without releasing the interpreter,
    # which one of them may be waiting for to let go of the backward pass
    del network, loss
    torch.distributed.destroy_process_group()


@pytest.mark.slow  # starts two interpreters
@pytest.mark.skipif(not torch.distributed.is_available() or sys.platform != "linux", reason="needs gloo")
def test_distributed_data_parallel(tmp_path):
    # the processes run this file, so that nothing has to be importable in them
    processes = [subprocess.Popen([sys.executable, Path(__file__), str(rank), str(tmp_path)]) for rank in range(2)]
    try:
        assert [process.wait(timeout=600) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    network, loss = rank_objects()
    for rank in range(2):
        pred, target = rank_data(rank)
        (loss(network(pred), target) / 2).backward()
    expected = [p.grad for x in (network, loss) for p in x.parameters()]
    for one, two, mean in zip(first, second, expected, strict=True):
        assert torch.equal(one, two)
        torch.testing.assert_close(one, mean)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), sys.argv[2])
