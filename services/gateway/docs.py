"""`/docs`: Swagger UI from files installed here, as a closed network reaches no CDN."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

PAGE = "/docs"
ASSETS = f"{PAGE}/assets"
# Only the files of this package are used: a copy of Swagger UI that it renews with each release.
PACKAGE = ("fastapi_offline", "static")


def install_docs(app: FastAPI) -> None:
    """Add the page and what it loads. Its addresses are relative, so a prefix does not matter."""
    assets = ASSETS.removeprefix("/")

    async def page() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=(app.openapi_url or "").removeprefix("/"),
            title=f"{app.title} - API",
            swagger_js_url=f"{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{assets}/swagger-ui.css",
            swagger_favicon_url=f"{assets}/favicon.png",
            swagger_ui_parameters={"validatorUrl": None},  # by default, one on the internet
        )

    app.mount(ASSETS, StaticFiles(packages=[PACKAGE]), name="docs-assets")
    app.add_api_route(PAGE, page, include_in_schema=False)
