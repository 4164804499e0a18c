"""The Trainer: one step with accumulation is one step on the big batch, on one rank and on two."""

import pytest
import torch
import torch.nn.functional as F
import trainer_cases
import transformers
from ranks import run_ranks
from torch import nn
from trainer_cases import WEIGHT, bert, sentences

import steelyard as sy
from steelyard.integrations.transformers import ExactMeanMixin, ExactMeanTrainer


def arguments(directory, **keywords):
    quiet = {"use_cpu": True, "report_to": [], "save_strategy": "no", "logging_strategy": "no"}
    quiet |= {"disable_tqdm": True, "dataloader_pin_memory": False}
    return transformers.TrainingArguments(directory, **quiet | keywords)


def rows(data):
    return [{k: v[i] for k, v in data.items()} for i in range(len(data["labels"]))]


def test_one_step_is_that_of_the_big_batch():
    trainer_cases.hugging_face_world()


def test_one_step_over_two_ranks_is_that_of_the_big_batch():
    run_ranks(trainer_cases.hugging_face_world, 2)


def test_the_trainers_count_is_right_without_weights_alone():
    unweighted = trainer_cases.hugging_face("token", 3, 2, exact=True, loss=sy.CrossEntropyLoss())
    assert unweighted > 0.1  # from the weighted gradient that trainer_cases expects


def test_sample_weights_count_in_the_denominator(tmp_path):
    data = sentences("token", 4)
    data["sample_weight"] = torch.rand(4, 6, dtype=torch.float64)
    model = bert("token")
    z = model(data["input_ids"], data["attention_mask"]).logits
    y, valid = data["labels"], data["labels"] >= 0
    w = torch.tensor(WEIGHT, dtype=torch.float64)[y.clamp(min=0)] * data["sample_weight"] * valid
    losses = F.cross_entropy(z.movedim(-1, 1), y, reduction="none")
    mean = (w * losses).sum() / w.sum()
    mean.backward()
    wanted = [p.detach() - p.grad for p in model.parameters()]
    model.zero_grad()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    trainer = ExactMeanTrainer(
        model,
        arguments(
            str(tmp_path),
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
            max_steps=1,
            max_grad_norm=0.0,
            remove_unused_columns=False,
        ),
        train_dataset=rows(data),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        loss=sy.CrossEntropyLoss(WEIGHT),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    assert trainer.train().training_loss == pytest.approx(mean.item(), rel=1e-6)
    torch.testing.assert_close(list(model.parameters()), wanted, rtol=1e-10, atol=1e-13)


def test_evaluation_reports_the_mean_and_predicts(tmp_path):
    data, model = sentences("token", 4), bert("token").eval()
    trainer = ExactMeanTrainer(
        model, arguments(str(tmp_path)), eval_dataset=rows(data), loss=sy.CrossEntropyLoss(WEIGHT)
    )
    trainer.remove_callback(transformers.PrinterCallback)
    z = model(data["input_ids"], data["attention_mask"]).logits
    weight = torch.tensor(WEIGHT, dtype=torch.float64)
    wanted = F.cross_entropy(z.movedim(-1, 1), data["labels"], weight=weight)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted.item(), rel=1e-6)
    assert trainer.predict(rows(data)).predictions.shape == (4, 6, 3)


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)

    def forward(self, pixels, labels=None):
        return (self.conv(pixels),)


def test_other_layouts_reach_the_loss(tmp_path):
    trainer = ExactMeanTrainer(
        Segmenter(), arguments(str(tmp_path)), loss=sy.CrossEntropyLoss(WEIGHT)
    )
    inputs = {"pixels": torch.randn(2, 1, 3, 3), "labels": torch.randint(3, (2, 3, 3))}
    z = trainer.model(inputs["pixels"])[0]
    weight = torch.tensor(WEIGHT)
    wanted = F.cross_entropy(z, inputs["labels"], weight=weight)
    torch.testing.assert_close(trainer.compute_loss(trainer.model.eval(), inputs), wanted)
    soft = sentences("token", 2)
    soft["labels"] = torch.rand(2, 6, 3, dtype=torch.float64).softmax(-1)
    trainer = ExactMeanTrainer(
        bert("token"), arguments(str(tmp_path)), loss=sy.CrossEntropyLoss(WEIGHT)
    )
    model = trainer.model.eval()
    z = model(soft["input_ids"], soft["attention_mask"]).logits.flatten(0, 1)
    wanted = F.cross_entropy(z, soft["labels"].flatten(0, 1), weight=weight.double())
    torch.testing.assert_close(trainer.compute_loss(model, soft), wanted)


def test_the_mixin_serves_other_trainers():
    class Exact(ExactMeanMixin, transformers.Seq2SeqTrainer):
        pass

    assert Exact.compute_loss is ExactMeanMixin.compute_loss


def test_other_losses_are_refused(tmp_path):
    def refusal(model=None, loss=None, **keywords):
        given = keywords.pop("arguments", {})
        with pytest.raises((TypeError, ValueError)) as caught:
            ExactMeanTrainer(
                model or bert("token"),
                arguments(str(tmp_path), **given),
                loss=loss or sy.CrossEntropyLoss(),
                **keywords,
            )
        return str(caught.value)

    would = " would be ignored: the loss is `loss`, and takes label_smoothing"
    smoothing = {"label_smoothing_factor": 0.1}
    assert refusal(arguments=smoothing) == "label_smoothing_factor" + would
    assert refusal(compute_loss_func=print) == "compute_loss_func" + would
    assert refusal(loss=nn.CrossEntropyLoss()).startswith(
        "loss is a torch.nn.modules.loss.CrossEntropyLoss, which does not know"
    )
    assert refusal(transformers.GPT2LMHeadModel(small_gpt2())) == (
        "GPT2LMHeadModel is a language model, which shifts its labels itself: here labels belong "
        "to the logits of the same position"
    )
    several = bert("sequence")
    several.config.problem_type = "multi_label_classification"
    assert refusal(several) == (
        "problem_type='multi_label_classification', but CrossEntropyLoss is for one class per "
        "position: give a loss of several labels, such as sy.BCEWithLogitsLoss"
    )
    several.config.problem_type = "regression"
    assert refusal(several, sy.BCEWithLogitsLoss()) == (
        "problem_type='regression': the losses of steelyard are for classes"
    )


def small_gpt2():
    return transformers.GPT2Config(vocab_size=5, n_positions=4, n_embd=4, n_layer=1, n_head=1)


def test_a_batch_without_labels_is_refused(tmp_path):
    trainer = ExactMeanTrainer(bert("token"), arguments(str(tmp_path)), loss=sy.CrossEntropyLoss())
    with pytest.raises(ValueError, match="the batch has 'input_ids', 'tags' but no 'labels'"):
        trainer.compute_loss(trainer.model, {"input_ids": 0, "tags": 0})
