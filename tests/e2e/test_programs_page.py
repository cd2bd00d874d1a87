"""The page for programs: a link to the list of endpoints opens it, and the page for people shows nothing of it."""


def test_a_link_to_the_endpoints_lists_them(page, server):
    assert page.locator("footer").is_hidden() and page.locator(".nav-holder").is_hidden()
    page.goto(f"{server.url}?view=api")
    for name in ("/train", "/status", "/chat", "/spectrum_picture"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.get_by_text("Optimiser steps. [1 to 1,000,000;").first.wait_for()
    assert "/programs" in page.url and page.get_by_text("page_1", exact=True).count() == 0
