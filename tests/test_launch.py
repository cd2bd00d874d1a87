"""Where the app believes to be served."""

from lora_playground.launch import at_hub


def test_on_a_jupyterhub_the_path_is_the_proxys_and_names_the_port():
    hub = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ann/"}
    assert at_hub(hub, None) == ("/user/ann/proxy/7860", 7860)
    assert at_hub(hub | {"GRADIO_SERVER_PORT": "7900"}, None) == ("/user/ann/proxy/7900", 7900)
    assert at_hub(hub, 8001) == ("/user/ann/proxy/8001", 8001)
    assert at_hub({}, None) == (None, None) and at_hub({}, 8001) == (None, 8001)
