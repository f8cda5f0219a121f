"""Serve Swagger UI at `/docs` from installed files, so that it works without a CDN."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE = "/docs"
ASSETS = f"{PAGE}/assets"
# fastapi-offline updates Swagger UI with each release. Only its copy of Swagger UI is used.
PACKAGE = ("fastapi_offline", "static")


def install_docs(app: FastAPI) -> None:
    """Add the page and its assets, with relative addresses, so that a path prefix works."""
    assets = ASSETS.removeprefix("/")

    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=(app.openapi_url or "").removeprefix("/"),
            title=f"{app.title} - API",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            swagger_ui_parameters={
                "validatorUrl": None
            },  # the default validator is a service on the internet
        )

    app.mount(ASSETS, StaticFiles(packages=[PACKAGE]), name="docs-assets")
    app.add_api_route(PAGE, page, include_in_schema=False)
