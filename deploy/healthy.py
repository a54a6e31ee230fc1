"""Ask the server of this container whether it is well; end with an error if not (the image's HEALTHCHECK)."""

import os
import urllib.request

base = os.environ.get("STREAMLIT_SERVER_BASE_URL_PATH", "").strip("/")
path = "/".join(part for part in (base, "_stcore", "health") if part)
urllib.request.urlopen(f"http://127.0.0.1:{os.environ.get('PORT', '8501')}/{path}", timeout=4)
