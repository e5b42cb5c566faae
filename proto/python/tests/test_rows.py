import datasets
import pandas
import pyarrow
import pytest
from perennial.rows import payload
from pyarrow import parquet


def read(rows):
    with payload(rows) as path:
        return parquet.read_table(path)


def test_tables_become_parquet_and_equal_ones_equal_bytes():
    columns = {"text": ["a", "b"], "label": ["x", "y"]}
    frame = pandas.DataFrame(columns, index=[7, 3])
    for rows in (frame, pyarrow.table(columns), columns):
        assert read(rows).to_pydict() == columns and not read(rows).schema.metadata
    with payload(frame) as first, payload(frame.copy()) as second:
        assert first.read_bytes() == second.read_bytes()
    assert not first.exists()


def test_of_a_dataset_labels_go_by_name_and_images_as_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"an image")
    features = datasets.Features({"label": datasets.ClassLabel(names=["ring", "star"]), "image": datasets.Value("string")})
    columns = {"label": [1, -1, None, 0], "image": [str(tmp_path / "a.png")] * 4}
    rows = datasets.Dataset.from_dict(columns, features=features).cast_column("image", datasets.Image())
    # In another order than the file's, as shuffled ones are.
    found = read(rows.select([3, 2, 1, 0])).to_pydict()
    assert found["label"] == ["ring", None, None, "star"]
    assert [image["bytes"] for image in found["image"]] == [b"an image"] * 4


def test_what_is_no_table_is_refused():
    with pytest.raises(TypeError):
        read(3)
