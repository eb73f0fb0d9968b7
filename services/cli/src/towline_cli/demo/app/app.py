"""A small web service: says hello."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def greeting(name: str) -> str:
    return f"hello, {name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = greeting(self.path.strip("/") or "world").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8080), Handler).serve_forever()
