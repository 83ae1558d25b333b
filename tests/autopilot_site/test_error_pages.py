"""What goes wrong is told in a sentence that says what to do next."""

import pytest
from django.template.loader import render_to_string


class TestErrorPages:
    def test_tells_that_there_is_nothing(self, client, db):
        response = client.get("/nothing/")

        assert response.status_code == 404
        assert "There is nothing here" in response.content.decode()

    @pytest.mark.parametrize("name", ["403.html", "403_csrf.html", "404.html", "500.html"])
    def test_has_no_code_or_style_in_the_page(self, name):
        html = render_to_string(name)

        assert "<script" not in html
        assert "style=" not in html
        assert '<a href="/admin/">' in html
