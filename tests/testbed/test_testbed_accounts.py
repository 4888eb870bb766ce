"""Account files as nodes get them."""

from __future__ import annotations

from pathlib import Path

from shirako.testbed.accounts import without_people


def test_people_their_memberships_and_all_passwords_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\n"
        "www-data:x:33:33::/var/www:/usr/sbin/nologin\n"
        "ada:x:1000:1000:Ada:/home/ada:/bin/bash\n"
        "nobody:x:65534:65534::/:/usr/sbin/nologin\n"
        "+::::::\n"
    )
    (tmp_path / "group").write_text("root:x:0:\nsudo:x:27:ada,www-data\nada:x:1000:\n")
    files = without_people(tmp_path)
    assert [line.split(":")[0] for line in files["passwd"].splitlines()] == [
        "root",
        "www-data",
        "nobody",
    ]
    assert files["group"] == "root:x:0:\nsudo:x:27:www-data\n"
    assert files["gshadow"] == "root:*::\nsudo:*::www-data\n"
    # "*" is no password; "!" would lock the account for sshd, keys or not.
    assert files["shadow"].splitlines()[0] == "root:*:1:0:::::"
