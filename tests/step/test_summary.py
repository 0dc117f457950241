from jaxcifar.step.freeze import label_params
from jaxcifar.step.freeze_text import parse_rules
from jaxcifar.step.summary import summarize


def test_it_lists_the_modules_from_stem_to_head_and_the_total(params):
    lines = summarize(params).splitlines()
    modules = ["module", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc", "total"]
    assert [line.split()[0] for line in lines] == modules
    assert lines[1].split() == ["conv1", "1", "9,408"]
    assert lines[-2].split() == ["fc", "2", "5,130"]
    assert lines[-1].split() == ["total", "62", "11,181,642"]
    assert len({len(line) for line in lines}) == 1


def test_with_labels_it_shows_what_is_trained_and_how(params):
    rules = parse_rules("up_to:layer1 fc=trained layer4=0.1 *=0.01@5", params)
    lines = summarize(params, label_params(params, rules)).splitlines()
    assert lines[0].split() == ["module", "leaves", "parameters", "trainable", "as"]
    assert lines[3].split() == ["layer1", "12", "147,968", "0", "frozen"]
    assert lines[4].split() == ["layer2", "15", "525,568", "525,568", "0.01@5"]
    assert lines[7].split() == ["fc", "2", "5,130", "5,130", "trained"]
    assert lines[8].split() == ["total", "62", "11,181,642", "11,024,138"]
