from gen_jax.figures.markup import Html, element, join, number, text


def test_strings_are_escaped_and_markup_is_not():
    assert text("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert element("p", "<b>", element("i", "x")) == "<p>&lt;b&gt;<i>x</i></p>"
    assert join("<", Html("<br>"), None) == "&lt;<br>"


def test_attributes_are_escaped_and_named_as_html_names_them():
    assert element("img", alt='"><script>', class_="a", aria_label="b") == (
        '<img alt="&quot;&gt;&lt;script&gt;" class="a" aria-label="b">'
    )
    assert element("div", hidden=True, id=None, role=False) == "<div hidden></div>"


def test_numbers_keep_their_digits_and_no_trailing_zeros():
    written = [number(value) for value in (0.0, 3, 3.0, 12.3456, 99999.6, 1e9, -0.5, 0.00021, 3.14e-7, float("nan"))]
    assert written == ["0", "3", "3", "12.35", "100,000", "1e9", "-0.5", "0.00021", "3.14e-7", "nan"]
