"""Parts that several agents are made from: networks, flows by name, temperatures, spaces."""
